"""These operators behind the interfaces of other libraries; each module needs more than kernels."""
