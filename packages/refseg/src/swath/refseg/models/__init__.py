"""RemoteSAM and its parts."""
