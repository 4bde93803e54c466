"""One model, one file: CAT-Seg, SED, GSNet, RSKT-Seg."""
