"""The real parts of the suite, one file each: install.sh installs them, here they are started and asked."""
