"""Small services with a known right verdict, and programs made at random.

- `common.py`: a ledger of effects, and the checks that several cases share
- a module a protocol: a broken target, a mended one, and the scenarios that tell them apart
- `silent.py`: correct services of which nothing may be said
- `rules.py`: what a judge must see, one tiny target a rule
- `unfit.py`: targets of which no verdict can be given
- `test_cases.py`: the table; `test_programs.py`: small programs with and without the reduction
"""
