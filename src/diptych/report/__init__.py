"""HTML reports and pictures. A page is one self-contained file that opens offline, without external scripts, fonts or pictures."""
