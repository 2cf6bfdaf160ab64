"""The command line, called as a program by the trials."""

from eft_gguf.cli.main import main

if __name__ == "__main__":
    main()
