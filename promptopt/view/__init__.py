"""`promptopt view`: pages of all runs in a folder, on this machine's own address. Needs the extra 'view'.

`app` puts together what the modules of `pages` offer; `library` finds runs; `security` decides who is answered.
"""
