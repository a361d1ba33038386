"""Systems of a domain: people, medicine, pathology, remote sensing."""
