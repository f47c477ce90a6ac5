"""OpenAI's requests as this system takes them: their names, their defaults, and what of them it cannot do."""
