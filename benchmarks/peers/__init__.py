"""CPU engines side by side: this one, llama.cpp, OpenVINO and transformers (`make bench-cpu`).

Every engine is a process of its own (`worker_*.py`), in the environment that has its packages. The
workers import nothing of this project but `protocol`, so that they run in the peers' environment.
"""
