"""The real parts of the suite, one file each: how it is installed is in install.sh, how it is started and asked is here."""
