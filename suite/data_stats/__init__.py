"""Statistics of a data set for people: tables in a terminal, and a page to look at."""
