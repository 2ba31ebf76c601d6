"""What a mined run says, as tables: methods by slice and by budget, tests, retention beside what the papers print."""
