"""Behaviours that adapters are taught, and that the study measures: what each is, its training chats and its tests."""
