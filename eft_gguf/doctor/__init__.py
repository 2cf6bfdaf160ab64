"""Can these models be blended here, will they fit, is it worth it? Verdicts, each with the way to mend a fault."""
