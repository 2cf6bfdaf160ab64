/* The shared library: eft.h compiled once, for programs that load it, such as Python by ctypes. */
#define EFT_SHARED
#define EFT_IMPLEMENTATION
#include "eft.h"
