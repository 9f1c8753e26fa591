"""One script for each revision of the tables. What a release has made is never changed here again."""
