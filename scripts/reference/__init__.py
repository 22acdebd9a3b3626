"""The reference, made from the code: one module a page, each with a function that gives the page's text."""
