"""`python -m eft_gguf` is `eft-gguf`."""

from eft_gguf.cli.main import main

if __name__ == "__main__":
    main()
