"""The tasks of the offline suite: a module for each, which makes candidates; `suite` chooses among them and writes the folder."""
