package devstack;

import java.util.Collections;
import java.util.List;
import org.apache.calcite.avatica.server.AvaticaServerConfiguration;
import org.apache.calcite.avatica.server.ServerCustomizer;
import org.apache.hadoop.conf.Configuration;
import org.apache.phoenix.queryserver.server.ServerCustomizersFactory;
import org.eclipse.jetty.server.Connector;
import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.server.ServerConnector;

/** Binds the Query Server, which has no setting for it and no password, to the loopback interface. */
public class Loopback implements ServerCustomizersFactory, ServerCustomizer<Server> {
  @Override
  public List<ServerCustomizer<Server>> createServerCustomizers(
      Configuration configuration, AvaticaServerConfiguration serverConfiguration) {
    return Collections.singletonList(this);
  }

  @Override
  public void customize(Server server) {
    for (Connector connector : server.getConnectors()) {
      ((ServerConnector) connector).setHost("127.0.0.1");
    }
  }
}
