"""What each protocol has to find, as arms and controls: `tests/claims/test_planted_claims.py` runs them."""
