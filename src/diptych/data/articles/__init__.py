"""Articles of PubMed Central: figures with captions, licences and packages; and the texts of MEDLINE."""
