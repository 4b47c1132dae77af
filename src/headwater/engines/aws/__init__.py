"""The engine on AWS: records in DynamoDB, queues in SQS; see decision 0035."""
