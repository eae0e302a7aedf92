"""The sections of the page; each turns runs into markup."""
