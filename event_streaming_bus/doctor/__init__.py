"""The doctor: checks a data folder without changing it, explains what it finds, and makes anew what can be made anew."""
