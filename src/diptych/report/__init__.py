"""HTML reports and pictures. A page is one file that opens offline: no script, font or picture comes from elsewhere."""
