"""What a person reads: tables, figures, pages. The only package that imports matplotlib."""
