"""Studies: arms compared under one protocol, every figure from run folders."""
