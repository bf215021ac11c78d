"""From words to embeddings: tokens, features, the cache of features."""
