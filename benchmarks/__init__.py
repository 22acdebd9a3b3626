"""How fast, how small and how clean the product is: one file a question, asked of real machines through HTTP.

`scripts/bench QUESTION` asks one, `scripts/bench all` all of them, `scripts/bench report` shows the answers.
"""
