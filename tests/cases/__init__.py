"""Small services with a known right verdict, and programs made at random.

- `common.py`: a ledger of effects, and the checks that several cases share
- one module for each protocol: a broken target, a mended one, and the scenarios that tell them apart
- `silent.py`: correct services for which nothing may be reported
- `rules.py`: what a judge must see, with one tiny target for each rule
- `unfit.py`: targets for which no verdict can be given
- `test_cases.py`: the table; `test_programs.py`: small programs with and without the reduction
"""
