#include "../eft_sampler.c"
