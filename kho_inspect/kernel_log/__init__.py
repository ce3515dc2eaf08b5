"""What the kernels in a dump say of themselves: VMCOREINFO, banners, the printk ring buffer."""
