"""Runnable experiments of RSCoTr, listed by ``swath configs``."""
