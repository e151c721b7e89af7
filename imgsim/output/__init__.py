"""Files for others: tables, arrays, figures and pages."""
