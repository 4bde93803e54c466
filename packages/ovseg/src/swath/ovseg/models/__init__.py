"""One model, one file: CAT-Seg, GSNet, RSKT-Seg."""
