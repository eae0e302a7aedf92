"""Llama: a decoder with grouped keys, rotary positions, SwiGLU and RMSNorm."""
