#include "../eft_reader.c"
#include "../eft_sampler.c"
