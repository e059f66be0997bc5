# steps.py
from iaflow.pipeline import Step


class GenerateMessageStep(Step):
    async def work(self, data):
        name = data.get("name", "World")
        return {"greeting": f"Hello, {name}!"}


class PrintMessageStep(Step):
    async def work(self, data):
        message = data.get("message")
        print(message)
        return {"status": "Message printed successfully"}
