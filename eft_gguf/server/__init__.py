"""The server: an API that OpenAI's and Ollama's clients can use, and a page with the two dials.

`app.py` puts it together; `worker.py` is the process that holds the models, `engine.py` this side's hold on it.
"""
