"""Operators in C++ for processors with AVX2, and with AVX-512 where there is VNNI.

`csrc/` holds the sources, `build` makes a library of them, `library` loads it; `operators` and
`recording` say what it offers. What they compute is defined by the torch reference beside every
operator, which also serves where there is no library.
"""
