"""The steps of the invoice pipeline.

They decide whether an invoice adds up and how a payment ends; whether it is paid at all is
decided by the pipeline's transitions and its people. `invoice_approval.json` names them.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Protocol

from iaflow.errors import Fail
from iaflow.pipeline import Step

__all__ = [
    "ApproveSmallAmountStep",
    "ArchiveInvoiceStep",
    "BankUnreachable",
    "Ledger",
    "PayVendorStep",
    "Payments",
    "ValidateInvoiceStep",
    "WriteMessageStep",
]


class BankUnreachable(Exception):
    """The bank does not answer; the payment may be tried again."""

    code = "bank_unreachable"


class Payments(Protocol):
    """What the service `payments` offers. A key that was paid before is not paid again."""

    async def pay(self, *, key: str, vendor: str, invoice_number: str, total: str) -> str: ...


class Ledger:
    """Payments within this process, for the example: it moves no money."""

    def __init__(self) -> None:
        self.paid: dict[str, str] = {}

    async def pay(self, *, key: str, vendor: str, invoice_number: str, total: str) -> str:
        """Return the payment's id. The bank of one vendor never answers, to show what then is."""
        if vendor == "Unreachable Ltd":
            raise BankUnreachable(f"the bank of {vendor} does not answer")
        return self.paid.setdefault(key, f"PAY-{invoice_number}")


_LEDGER = Ledger()


class ValidateInvoiceStep(Step):
    """
    Checks that an invoice is complete and that its lines add up to its amount.

    Errors: `invoice_incomplete`, `totals_differ`.
    """

    async def work(self, data: dict[str, Any]) -> dict[str, Any]:
        missing = [name for name in ("invoice_number", "vendor", "lines") if not data.get(name)]
        if missing:
            raise Fail(f"the invoice has no {', '.join(missing)}", code="invoice_incomplete")
        totals = [_money(line["quantity"]) * _money(line["unit_price"]) for line in data["lines"]]
        total, amount = sum(totals, Decimal(0)), _money(data["amount"])
        if total != amount:
            raise Fail(f"the lines add up to {total}, not to {amount}", code="totals_differ")
        summary = [
            f"{line['quantity']} x {line['description']}: {line_total:.2f}"
            for line, line_total in zip(data["lines"], totals, strict=True)
        ]
        return {**data, "summary": summary}


class ApproveSmallAmountStep(Step):
    """Puts on record why nobody was asked."""

    async def work(self, data: dict[str, Any]) -> dict[str, Any]:
        return {"reason": f"{data['amount']} is within the limit of {data['limit']}"}


class PayVendorStep(Step):
    """
    Pays the vendor, once however often the step is attempted.

    Service: `payments` (see `Payments`; default: a ledger in this process).
    Errors: `iban_invalid` (never tried again), `bank_unreachable`.
    """

    async def work(self, data: dict[str, Any]) -> dict[str, Any]:
        if not _is_iban(data["iban"]):
            raise Fail(f"{data['iban']} is no valid IBAN", code="iban_invalid")
        payments: Payments = self.get_service("payments", default=_LEDGER)
        payment_id = await payments.pay(
            key=self.context.idempotency_key,
            vendor=data["vendor"],
            invoice_number=data["invoice_number"],
            total=f"{data['amount']} {data['currency']}",
        )
        return {"payment_id": payment_id}


class WriteMessageStep(Step):
    """Writes a message to somebody; here, into the run's log and its own output."""

    async def work(self, data: dict[str, Any]) -> dict[str, Any]:
        self.context.log("a message is written", to=data["to"], text=data["text"])
        return {"to": data["to"], "text": data["text"]}


class ArchiveInvoiceStep(Step):
    """Says how it ended: paid, rejected, or not paid although it was approved."""

    async def work(self, data: dict[str, Any]) -> dict[str, Any]:
        if data["payment_id"]:
            status = "paid"
        else:
            status = "rejected" if data["decision"] == "Reject" else "payment_failed"
        return {"status": status, "record": f"{data['invoice_number']}: {status}"}


def _money(value: float | str) -> Decimal:
    # By way of its text: 0.1 is meant as one tenth, not as the nearest binary fraction.
    return Decimal(str(value))


def _is_iban(text: str) -> bool:
    """Return whether the check digits of an account number are right (ISO 13616)."""
    compact = text.replace(" ", "").upper()
    if not (compact.isascii() and compact.isalnum() and 15 <= len(compact) <= 34):
        return False
    digits = "".join(str(int(character, 36)) for character in compact[4:] + compact[:4])
    return int(digits) % 97 == 1
