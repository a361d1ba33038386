"""Words to regions: referring expressions, phrases of captions, open-vocabulary detection."""
