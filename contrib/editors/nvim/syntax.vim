" Highlighting of elasticity policies.
if exists("b:current_syntax")
  finish
endif
syntax keyword eplVerb balance reserve colocate separate pin
syntax keyword eplStatement rule priority limits mode shadow servers moves per cooldown up down period
syntax keyword eplOperator and or not in ref true over for at
syntax keyword eplEntity server client any
syntax keyword eplFeature cpu mem net call latency queue metric count size perc mean p50 p95 p99 len node zone
syntax match eplOperator "=>\|==\|<=\|>=\|<\|>"
syntax match eplNumber "\<\d\+\(\.\d\+\)\?\(KiB\|MiB\|GiB\|ms\|s\|%\)\?"
syntax region eplString start=+"+ end=+"+ oneline
syntax match eplComment "//.*$"
syntax region eplComment start="/\*" end="\*/"
highlight default link eplVerb Function
highlight default link eplStatement Statement
highlight default link eplOperator Operator
highlight default link eplEntity Type
highlight default link eplFeature Identifier
highlight default link eplNumber Number
highlight default link eplString String
highlight default link eplComment Comment
let b:current_syntax = "epl"
