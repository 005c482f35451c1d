"""What a wheel holds: zip, ELF, fatbin, facts."""
