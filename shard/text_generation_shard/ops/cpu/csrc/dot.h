// Dot products of bytes, for the instruction set that this object file is compiled for.
#pragma once

#if defined(__AVX512VNNI__)
#include "dot_avx512.h"
#else
#include "dot_avx2.h"
#endif
