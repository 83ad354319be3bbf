'use strict'
// A Haraka plugin that has mailauth judge each message by SPF, DKIM, ARC and DMARC, and does what its DMARC policy asks for.
//
// Haraka writes the Authentication-Results. Settings stand in config/mailauth.ini: `strict` is mailauth's own.

const { PassThrough } = require('node:stream')
const { authenticate } = require('mailauth')

const UNANSWERED = 'a DNS server that DMARC needs does not answer'

exports.register = function () {
    this.cfg = this.config.get('mailauth.ini', { booleans: ['-main.strict'] })
}

exports.hook_data_post = function (next, connection) {
    this.judge(connection).then(
        (verdict) => next(...verdict),
        (error) => {
            connection.logerror(this, error.stack)
            next(DENYSOFT, 'this message could not be judged')
        },
    )
}

exports.judge = async function (connection) {
    const transaction = connection.transaction
    const message = new PassThrough()
    transaction.message_stream.pipe(message)
    const found = await authenticate(message, {
        ip: connection.remote.ip,
        helo: connection.hello.host,
        sender: transaction.mail_from.address,
        mta: connection.local.host,
        disableBimi: true,
        strict: this.cfg.main.strict,
    })
    for (const result of [...found.dkim.results, found.spf, found.arc, found.dmarc]) {
        if (result?.info) connection.auth_results(result.info)
    }
    // RFC 9989 §11.5: without one author domain there is no policy, which forgers would make use of.
    if (found.dmarcSkipReason) return [DENY, `no DMARC without one author: ${found.dmarcSkipReason}`]
    const { dmarc, spf, dkim } = found
    if (dmarc.status.result === 'fail' && dmarc.policy === 'reject') {
        // RFC 9989 §5.3.6: what fails for want of an answer may pass later. mailauth calls it `fail`.
        const isOpen = [spf, ...dkim.results].some((one) => one?.status.result === 'temperror')
        return isOpen ? [DENYSOFT, UNANSWERED] : [DENY, 'refused by the DMARC policy of its author']
    }
    return dmarc.status.result === 'temperror' ? [DENYSOFT, UNANSWERED] : []
}
