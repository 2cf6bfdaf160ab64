// The same tests with the header compiled as C++.
#include "test_eft.c"
