# BLAKE2s and the key derivation over it, for handshakes. The C functions are in ext/c/blake2s.h.
