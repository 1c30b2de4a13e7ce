"""Document states: what is stored of a document, so that it is encoded once."""
