"""How the bundled demo family is made: facts, corpus, training, conversion, questions and scores."""
