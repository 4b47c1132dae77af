"""From apps to what runs them on AWS: a pipeline of pure stages.

    graph + settings ──synthesize──▶ stack of resource models ──▶ CloudFormation JSON
                                                              └─▶ Terraform JSON

No stage looks anything up, reads a clock or needs an SDK: the same apps and settings give the same bytes.
`stack` knows Headwater and what AWS has for it; `cloudformation` and `terraform` know only models.
"""
