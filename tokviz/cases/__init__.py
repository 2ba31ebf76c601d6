"""Case files, the search for instructive cases, stored sessions."""
