"""What is on disk: model files, families of them, and whether they may be blended. Nothing is loaded here."""
