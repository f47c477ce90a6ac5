"""Breaks a system of its own on purpose, by a seeded schedule, and checks that nothing was lost and nothing doubled.

    system      the processes under test, all of its own making: never somebody else's
    load        submits jobs over HTTP, again and again until each is accepted
    evidence    reads the database beside it all: what runs where, what ended, what is stored
    faults      the kinds of faults: how each strikes, and when its damage is over
    trial       one run: start, strike by the schedule, wait for the ends, stop, check
    report      the verdict as a table and as JSON

    streams     a run of its own kind: many streams are read through the strikes, and every lie is caught
    readers     who reads them: leaves, comes back, and notes what cannot be true

Knows the other rooms from outside: processes, HTTP, tables, Redis. Nothing imports it.
"""
